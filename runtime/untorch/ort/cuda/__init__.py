"""What only an NVIDIA GPU needs: its libraries, its executor, CUDA graphs, padding removal."""
