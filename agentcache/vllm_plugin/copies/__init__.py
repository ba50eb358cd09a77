"""The tier of a real engine: host memory below the pool, and the copies that steps carry there and back."""
