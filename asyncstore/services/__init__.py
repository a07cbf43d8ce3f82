"""Services of PS3.4 over one association, as user (SCU) and as provider (SCP)."""
