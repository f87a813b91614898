"""What heads are put together from: matching, pixel decoders, transformers of queries, text encoders."""
