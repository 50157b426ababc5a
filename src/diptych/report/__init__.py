"""Floor 5: plots and the living review as one HTML page."""
