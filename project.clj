; What `sparse jar` and `sparse submit` build the jar from. Nothing of Storm goes into it: the workers have it.
; storm-core and flux-core are not named: nothing here is written in Java, and storm-core needs a registry of its own.
(defproject paystorm "0.1.0-SNAPSHOT"
  :description "Screens payment event streams for fraud, on Apache Storm or on one machine alone."
  :resource-paths ["_resources"]
  :target-path "_build"
  :min-lein-version "2.0.0"
  :jvm-opts ["-client"]
  :dependencies [[org.apache.storm/storm-client "2.8.2" :scope "provided"]]
  :jar-exclusions     [#"log4j\.properties" #"org\.apache\.storm\.(?!flux)" #"trident" #"META-INF" #"meta-inf" #"\.yaml"]
  :uberjar-exclusions [#"log4j\.properties" #"org\.apache\.storm\.(?!flux)" #"trident" #"META-INF" #"meta-inf" #"\.yaml"])
