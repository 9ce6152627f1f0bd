# cmake -DGIT=PROGRAM -DSOURCE=FOLDER -DHEADER=FILE -P write_commit.cmake: the commit of a source folder, with a + where files differ from it,
# as a header, which is left alone where it says so already.
set(commit "unknown")
if(GIT)
  execute_process(COMMAND "${GIT}" describe --always --dirty=+ --match= --abbrev=7 WORKING_DIRECTORY "${SOURCE}"
    OUTPUT_VARIABLE described OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
  if(failed EQUAL 0)
    set(commit "${described}")
  endif()
endif()
set(text "// Written by the build.\n#pragma once\n\n#define SINKSCOPE_COMMIT \"${commit}\"\n")
set(before "")
if(EXISTS "${HEADER}")
  file(READ "${HEADER}" before)
endif()
if(NOT before STREQUAL text)
  file(WRITE "${HEADER}" "${text}")
endif()
