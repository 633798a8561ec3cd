from ringfence.cli.entry import main

main()
