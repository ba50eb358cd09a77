"""Several simulated engines behind one router, in one simulated time."""
