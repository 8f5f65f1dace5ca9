"""Reading and writing records: the embedded log and Kafka, behind one interface (`paystorm.log.base`)."""
