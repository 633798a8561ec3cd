"""An edge: virtual SSDs served over NBD, their data in files, their times those of the device model."""
