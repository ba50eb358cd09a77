"""Multi-segment attention in Triton: rows at any positions of their requests over a paged cache, in one launch.

`msa.msa_attention` is the public call, `plan.plan_tiles` what it reuses over the layers of a step, and
`reference.attention` the truth that both are tested against.
"""
