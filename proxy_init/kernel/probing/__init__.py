"""Real packets through the kernel's rules."""
