"""Policy routes and addresses, through rtnetlink."""
