"""What measures the pipeline, and what breaks it on purpose, beside the product that it looks at."""
