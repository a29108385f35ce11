"""Sensors to try out executors without hardware, and to copy from."""
