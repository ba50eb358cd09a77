"""The pool's side: look-up and allocation with holes, the order of free blocks, keys that are withdrawn."""
