"""Tasks, the sessions they are played in, the tools of those sessions, and the scorers that judge them."""
