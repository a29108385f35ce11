"""The messages between the server and the executors: their contents, typed, and how they become payloads.

Frames themselves (header, CRC, kinds) are the link's. Executors import this room, so it needs numpy and nothing heavier.
"""
