"""What a study's folder holds, and how it is read and written."""
