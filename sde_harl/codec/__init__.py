"""From latents to bytes and back. The server alone runs entropy.py and
bottleneck.py, in torch; the rest runs on the devices too, in numpy and C.
"""
