"""The link: streams of many calls over one connection, with credit, deadlines and an honest end."""
