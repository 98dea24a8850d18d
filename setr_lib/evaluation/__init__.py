"""Official metrics, their intervals and floors, the leaderboard's rows, and reports. Import from the modules
here.
"""
