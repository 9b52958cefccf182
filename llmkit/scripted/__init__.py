"""What a scripted provider is made of, without its I/O: replies, faults, and how a service would tell them."""
