// Package engine is the way of a reading in every host: it is named, taken (durably), aligned to a slot, and handed to
// the outbox or, in a processor, to the next consumer.
//
//	reading -> name -> take -> align -> close -> outbox -> board
//
// A series is one parameter of one device: nothing else that comes with a metric can part it. Each step that changes the
// state is one transaction of one [store.Store]:
//
//   - take: the named samples of one or more batches, under samples/. [Batch.Commit] returns when they are on disk.
//     Live ones stay there, and wait, until this machine's clock is trusted.
//   - close: the slots of closed windows enter the outbox, the aligner is saved under open/, and the sample batches that
//     are in it go. In a processor the slots wait under ready/ until the next consumer has taken them.
//   - refuse: readings that are in no slot share a line of the trail a slot, series and reason. Until that is written they
//     are under refused, or come again from the samples. After a kill it may be written twice.
//
// So a kill at any moment costs no sample that was taken, and changes no slot.
package engine
