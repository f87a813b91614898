"""Labels as annotation tools write them: outlines and run lengths, made into label maps when a sample is read."""
