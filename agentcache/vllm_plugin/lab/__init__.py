"""Looking at engines from outside: doctor, profiles, proofs of exactness. Nothing here runs in production."""
