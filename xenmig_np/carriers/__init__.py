"""What toolstacks wrap round a libxc image: recognised, taken off, put on again."""
