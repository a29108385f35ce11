"""The messages between the server and the executors: typed contents, and their payloads.

Frames themselves (header, CRC, kinds) are the link's. Executors import this room, so it needs numpy
and nothing heavier.
"""
