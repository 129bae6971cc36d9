# --8<-- [start:names]
from pushforward.registry import names, summary

for name in names():
    print(f"pf.{name:32} {summary(name)}")
# --8<-- [end:names]

if not names():
    print("(no name is public yet)")
