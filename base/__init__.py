"""What every folder shares: errors, plug-ins, worker processes, HTTP."""
