"""What is sent of an instance: changed as asked, and in a transfer syntax that the peer accepts; no network."""
