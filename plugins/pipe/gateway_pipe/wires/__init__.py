"""What links run over: aiohttp's WebSockets, of servers and clients."""
