"""What a run is told, what it tells, and where that is kept."""
