"""What the page of each type of result shows."""
