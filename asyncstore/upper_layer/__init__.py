"""The DICOM upper layer protocol of PS3.8, without I/O: PDUs, the state machine, and the layout of P-DATA-TF."""
