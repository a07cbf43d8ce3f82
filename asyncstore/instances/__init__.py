"""SOP Instances on disk and in memory; blocking code that knows no network and no event loop."""
