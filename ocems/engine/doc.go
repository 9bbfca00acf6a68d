// Package engine processes readings in every host: a reading is named, taken (durably), aligned to a slot, and handed
// to the outbox or, in a processor, to the next consumer.
//
//	reading -> name -> take -> align -> close -> outbox -> board
//
// A series is one parameter of one device: no other attribute of a metric can split it. Each step that changes the
// state is one transaction of one [store.Store]:
//
//   - take: the named samples of one or more batches, under samples/. [Batch.Commit] returns when they are on disk.
//     Live ones wait there until this machine's clock is trusted.
//   - close: the slots of closed windows enter the outbox, the aligner is saved under open/, and the sample batches that
//     it contains are deleted. In a processor the slots wait under ready/ until the next consumer has taken them.
//   - refuse: readings that are in no slot share one line of the trail for each slot, series and reason. Until the line is
//     written they are under refused, or are found again in the samples. After a kill the line may be written twice.
//
// So a kill at any moment loses no sample that was taken, and changes no slot.
package engine
