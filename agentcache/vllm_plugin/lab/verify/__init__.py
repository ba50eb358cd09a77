"""Exactness, tried: drawn programs (`programs`) on one rig (`rig`) over two devices.

`engine` computes: answers of a real engine, whose blocks were evicted and overwritten, against those of a cold run.
`books` computes nothing and keeps books of what each slot holds, so that a wrong read is seen where it happens.
"""
