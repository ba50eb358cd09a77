"""What readers are made of: lines, records, requests, ids of blocks, the typed parts of a trace."""
