"""Who a node is: certificates, who signs them, how a node gets one, and what to say when one does not do."""
