"""Results of an evaluation: prediction files for test servers, tables, and an HTML report."""
