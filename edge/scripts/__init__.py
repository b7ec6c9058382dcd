"""Scripts: what was uploaded, what an upload may say, and how one becomes the code that serves."""
