"""What an engine says of itself: claims it was told, receipts, metrics."""
