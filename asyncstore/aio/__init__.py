"""Small parts for asyncio and trio that anyio does not have."""
