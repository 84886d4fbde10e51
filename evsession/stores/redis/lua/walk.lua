-- walk.lua: return the last events of one session by following its links, newest first.
--
-- The newest is named by the snapshot, and when that is gone by the index of ended sessions, which knows its millisecond.
--
-- KEYS[1]  {ns:NN}:s:<sid>  snapshot   KEYS[2]  {ns:NN}:log   KEYS[3]  {ns:NN}:ended
-- ARGV[1]  sid   ARGV[2]  how many   ARGV[3]  id to begin at, "" for the session's newest
--
-- Returns {sid, entry, entry, …}
-- Cost    O(how many × log n)

local function sid_of(entry)
  for i = 1, #entry[2], 2 do
    if entry[2][i] == 's' then return entry[2][i + 1] end
  end
end

local function last_of_ended()
  local ms = redis.call('ZSCORE', KEYS[3], ARGV[1])
  for _, entry in ipairs(ms and redis.call('XREVRANGE', KEYS[2], ms, ms) or {}) do
    if sid_of(entry) == ARGV[1] then return entry[1] end
  end
end

local id = ARGV[3]
if id == '' then id = string.match(redis.call('GETRANGE', KEYS[1], 101, 124), '^%S+') or last_of_ended() end
local entries = {ARGV[1]}
while id and id ~= '0-0' and #entries <= tonumber(ARGV[2]) do
  local found = redis.call('XRANGE', KEYS[2], id, id)[1]
  if not found then break end
  local entry = {}
  for i = 1, #found[2], 2 do entry[found[2][i]] = found[2][i + 1] end
  if entry.s ~= ARGV[1] then break end
  entries[#entries + 1] = found
  id = entry.p
end
return entries
