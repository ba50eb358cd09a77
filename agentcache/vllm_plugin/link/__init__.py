"""The engine's link to the residency service, on a thread of its own."""
