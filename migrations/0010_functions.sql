-- A function is on record from the moment it is asked for, so that whoever goes on with the call knows that it may have run.

alter table conversation_transcripts
    drop constraint conversation_transcripts_status,
    add constraint conversation_transcripts_status check (status in ('final', 'not_transcribed', 'unanswered'));

comment on column conversation_transcripts.status is '`not_transcribed`: there was sound, but no text could be made of it. `unanswered`: a function that has not answered, or whose answer is not known.';
