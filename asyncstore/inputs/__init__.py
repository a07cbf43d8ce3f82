"""Finds the instances of files, directories, archives and DICOMDIRs, and reads ahead of who takes them."""
