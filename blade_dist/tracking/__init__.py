"""Records of a run: every step a row, in Parquet and in TensorBoard, and a line for whoever watches."""
