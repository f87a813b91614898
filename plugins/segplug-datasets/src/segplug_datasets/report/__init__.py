"""What an evaluation leaves behind: prediction files as test servers want them, tables, and one page to look at."""
