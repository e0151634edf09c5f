"""Records of a run: every step a row, in Parquet and in TensorBoard; and what is printed of them."""
