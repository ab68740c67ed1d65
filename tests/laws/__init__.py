"""The laws that every compressor keeps. A compressor added to the table in compressors.py is put under all of them."""
