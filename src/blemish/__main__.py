from blemish.cli import main

main()
