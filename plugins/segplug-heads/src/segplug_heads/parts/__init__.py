"""Parts that heads are built from: matching, pixel decoders, transformers of queries, text encoders."""
