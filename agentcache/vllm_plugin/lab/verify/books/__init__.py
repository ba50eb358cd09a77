"""A model check: the real scheduler over a device that computes nothing and keeps books instead.

The device knows for each slot of the cache of which prefix its K/V are, and tokens are a pure function of the prefix,
so a read of the wrong slot is seen where it happens. It runs steps ahead as a GPU does and no CPU engine can.
"""
