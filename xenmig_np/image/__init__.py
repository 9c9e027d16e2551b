"""What is in an image: page table, and later its pages."""
